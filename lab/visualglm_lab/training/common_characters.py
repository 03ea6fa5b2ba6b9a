"""Everyday Chinese characters, by frequency, and everyday English words.

They are pieces of the small vocabulary, so that users' own wording rarely falls back to bytes.
"""

# ruff: noqa: E501  (the linter counts a Chinese character as two)
from __future__ import annotations

CHARACTERS = (
    "的一是了我不在人有这个上们来到时大地为子中你说生国年着就那和要她出也得里后自以会家可下而过天去能对小多然于心学么之都好看起发当没成只如事把还用第样道"
    "想作种开美总从无情己面最女但现前些所同日手又行意动方期它头经长儿回位分爱老因很给名法间斯知世什两次使身者被高已亲其进此话常与活正感见明问力理尔点文几"
    "定本公特做外孩相西果走将月十实向声车全信重三机工物气每并别真打太新比才便夫再书部水像眼等体却加电主界门利海受听表德少克代员许先口由死安写性马光白或住"
    "难望教命花结乐色更拉东神记处让母父应直字场平报友关放至张认接告入笑内英军候民岁往何度山觉路带万男边风解叫任金快原吃妈变通师立象数四失满战远格士音轻目"
    "条呢病始达深完今提求清王化空业思切怎非找片罗钱紧怕远队反影题红青黑黄绿蓝紫粉棕灰橙圆形三角星正菱十字房屋树阳亮汽船鱼朵杯伞雨蘑菇球图画背景颜描述左右"
    "二五六七八九零百千半双单侧旁底顶央沙滩草夜云雪河湖岛林森木石土火冰热冷暖春夏秋冬早晚午晨昨星期礼拜钟分秒请谢您吗吧呀啊哦哪谁谁嘛呵哈喂嗯唱歌跳舞玩笑哭"
    "猫狗鸟兔马牛羊猪鸡鸭鼠虎龙蛇猴熊狮象鹿鹅蜂蝶虫苹果香蕉桃梨葡萄西瓜橘柠檬草莓樱番茄菜米饭面包蛋肉汤茶咖啡奶糖盐油酒饼干蛋糕冰淇淋桌椅床灯窗墙地板楼梯厨"
    "衣服裤裙鞋帽袜手套包眼镜表戒指项链纸笔书本刀叉勺碗盘筷瓶盒箱袋伞钥匙锁电脑机视冰箱洗衣机相片照拍摄摄像头屏幕键盘鼠标飞机火车公交自行摩托轮船街桥城市村"
    "镇店铺院校园医警察消防老师学生医生护士司机农民工人爷奶爸妈哥姐弟妹叔姨舅儿孙宝贝朋友同伴侣客户高兴快乐开心伤悲愤怒害怕惊讶喜欢讨厌希望觉得认为知道记得忘"
    "简详细句短语言词汇英汉译答案错误对确否定能够必须应该需要想法办法原因结果所以因为虽然但是如果或者而且然后首先最后现在以前以后刚才马上立即经常偶尔从不总共"
    "介绍告诉数量总计多少几种类型大约可能也许肯定显示出现存在位置方向东南西北附近周围远近高低上下前后里外内部角落中心边缘旋转倾斜水平垂直平行交叉重叠覆盖遮挡"
    "尺寸巨微宽窄厚薄粗细长短深浅浓淡明暗鲜艳透纯杂混合线条弧曲折点块格纹案图符号标志字母数漫卡通手绘简笔油彩铅素像真假实虚人脸身腿脚臂头发嘴耳鼻睛牙舌皮毛"
    "比较更最差异区相似一致不同哪一样各自分别每其余另剩全整部份完缺漏增减加乘除等于零负百分率猜测推断判观察注看见寻找指认识辨别名称叫作属描绘展现呈包含括容装满"
    "游泳跑步走路坐站躺睡醒吃喝拿放推拉举抬抓扔踢打开关闭进出上升落飘浮沉飞行驶停靠挂贴摆排列成群孤独热闹安静黎黄昏夕阳彩虹闪烁照耀星辰宇宙球火箭卫航天员礼物"
    "节日庆祝生婚春联灯笼烟鞭炮舞狮粽月饼粥饺面条茶壶扇棋牌琴鼓笛吉他钢小提喇叭"
)

ENGLISH = (
    "the a an is are was were be been am do does did can could will would should may might must have has had not no yes "
    "and or but if because so than then that this these those there here it its he she they we you I me my your his her "
    "their our us them what which who whom whose when where why how many much few more most less some any all each both "
    "other another same different of in on at to from with without by for about into over under above below between "
    "behind next near beside inside outside left right top bottom middle centre center corner side front back upper "
    "lower up down image image photo drawing scene object objects thing things shape shapes colour color colours "
    "colors background big small large little tall short long round see look show shown shows tell describe please "
    "count number find name say think know like want give make made draw drawn paint painted person people man woman "
    "child boy girl dog cat bird animal water sky ground first second third last only just also very really maybe sure "
    "today tomorrow time day night morning good bad nice beautiful happy hello hi thanks thank help answer question "
    "red orange yellow green blue purple pink brown black white grey gray one two three four five six seven eight nine "
    "ten zero detail sentence short chinese english"
)
